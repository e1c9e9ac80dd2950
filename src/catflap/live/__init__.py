"""Cameras, streams, videos and folders to events, in real time and for months."""
