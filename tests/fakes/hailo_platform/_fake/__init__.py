"""What the native half of the fake does; nothing here has a counterpart of that name in the real package."""
