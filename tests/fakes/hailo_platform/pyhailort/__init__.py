"""As in the real package: everything is in `pyhailort`, and its native half in `_pyhailort`."""
