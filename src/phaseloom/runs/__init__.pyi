from . import control as control
from . import folder as folder
from . import memory as memory
from . import parallel_map as parallel_map
from . import parameter_paths as parameter_paths
from . import scan_recipe as scan_recipe
from . import snapshot_image as snapshot_image
from . import steered as steered
