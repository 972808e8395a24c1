from . import calibrate as calibrate
from . import estimators as estimators
from . import figures as figures
from . import hologram_start as hologram_start
from . import near_field as near_field
from . import orientations as orientations
from . import refine as refine
from . import state as state
