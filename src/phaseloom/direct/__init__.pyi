from . import bright_field as bright_field
from . import figures as figures
from . import fit as fit
from . import recipe as recipe
from . import reconstruct as reconstruct
from . import solve as solve
from . import survey as survey
from . import transfer as transfer
