"""Numbers with a dimension: names of units, tables of positions, what tells a near field from a far one."""
