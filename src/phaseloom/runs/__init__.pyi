from . import folder as folder
from . import memory as memory
from . import parallel_map as parallel_map
from . import scan_recipe as scan_recipe
