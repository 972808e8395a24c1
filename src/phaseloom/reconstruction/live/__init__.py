"""A reconstruction of a scan that is still being taken: patterns that join, a direct image, the dose."""
