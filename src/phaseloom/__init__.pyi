# The public names of the package, each written once: what is listed here can be had as ``phaseloom.NAME``.

# the systems
from . import calibration as calibration

# what they share
from . import compat as compat
from . import data as data
from . import embedding as embedding
from . import export as export
from . import fitting as fitting
from . import learning as learning
from . import metrics as metrics
from . import physics as physics
from . import plot as plot
from . import ptycho as ptycho
from . import reconstruction as reconstruction
from . import restoration as restoration
from . import retrieval as retrieval
from . import samples as samples
from . import search as search
from . import simulation as simulation
from . import units as units
from . import virtual as virtual

# the names of daily use
from .data import prepare as prepare
from .data.diagnostics import inspect as inspect
from .data.formats import read as read
from .data.scan import Geometry as Geometry
from .data.scan import Scan4D as Scan4D
from .embedding.train import Autoencode as Autoencode
from .errors import BadInput as BadInput
from .fitting import optimizers as optimizers
from .fitting.loop import Progress as Progress
from .fitting.loop import fit as fit
from .plugins import register as register
from .ptycho import batches as batches
from .ptycho import noise as noise
from .ptycho import objects as objects
from .ptycho import probes as probes
from .ptycho.likelihood import Likelihood as Likelihood
from .ptycho.likelihood import Misfit as Misfit
from .ptycho.model import Ptychography as Ptychography
from .ptycho.noise import shot_noise as shot_noise
from .ptycho.scans import depth_of_focus as depth_of_focus
from .reconstruction.protocol import Job as Job
from .reconstruction.protocol import calibrate as calibrate
from .reconstruction.protocol import reconstruct as reconstruct
from .reconstruction.recipe import Reconstruct as Reconstruct
from .restoration.train import Restore as Restore
from .result import Result as Result
from .result import load as load
from .retrieval.recipe import Train as Train
from .search.recipe import Search as Search
from .simulation import simulate as simulate
from .simulation.recipe import Simulate as Simulate
from .version import __version__ as __version__
from .virtual.recipe import Virtual as Virtual
