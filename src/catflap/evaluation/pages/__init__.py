"""What was measured as HTML pages: nothing is loaded from elsewhere, nothing runs."""
