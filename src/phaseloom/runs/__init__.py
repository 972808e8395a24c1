"""What runs of all systems share: recipes of scans, run folders, memory, parallel work."""
