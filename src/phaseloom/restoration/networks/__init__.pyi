from . import agssf1 as agssf1
from . import phase_attention as phase_attention
from . import phaseformer as phaseformer
from . import unet as unet
from . import vgg as vgg
