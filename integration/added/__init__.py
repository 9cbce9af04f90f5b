"""Files that `make install-app` adds to the app as they are. Nothing here imports anything of ours."""
