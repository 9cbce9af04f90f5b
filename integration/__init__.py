"""Puts a bundle into Hailo's Speech Recognition example app, proves that it transcribes, and takes it out again."""
