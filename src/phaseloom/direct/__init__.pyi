from . import bright_field as bright_field
from . import solve as solve
from . import transfer as transfer
