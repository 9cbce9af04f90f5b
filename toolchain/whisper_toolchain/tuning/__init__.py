"""Tuning: the few layers that need 16 bits for a wanted accuracy on the emulator."""
