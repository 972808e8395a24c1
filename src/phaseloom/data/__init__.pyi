from . import calibrate as calibrate
from . import counts as counts
from . import diagnostics as diagnostics
from . import formats as formats
from . import importers as importers
from . import orientations as orientations
from . import prepare as prepare
from . import scan as scan
