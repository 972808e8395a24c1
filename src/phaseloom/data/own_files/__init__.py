"""Reading of our own files: tables of their members, and how a member is read."""
