from . import cdtools as cdtools
from . import phaseformer as phaseformer
from . import ptyrad as ptyrad
