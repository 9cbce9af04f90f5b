"""The stages of the flow, one module each; the command line and the Makefile only call these."""
