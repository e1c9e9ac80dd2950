"""From a camera, stream, video or folder to events: the verb `watch`, its sources and its receivers."""
