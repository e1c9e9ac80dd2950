"""The whole line as one local page: a project, its suggestions, its jobs, and the server of the page."""
