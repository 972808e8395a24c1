"""What a file does not say about a scan: orientation, rotation, defocus, step and slices, estimated from
it.
"""
