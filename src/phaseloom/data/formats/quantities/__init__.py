"""Numbers with a dimension: names of units, tables of positions, types of bare
numbers, what tells a near field from a far one.
"""
