from .growing_scan import GrowingScan as GrowingScan
from .growing_scan import open_growing as open_growing
