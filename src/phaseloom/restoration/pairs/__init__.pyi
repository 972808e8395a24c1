from . import crops as crops
from . import folders as folders
from . import image_kinds as image_kinds
from . import images as images
from . import layouts as layouts
from . import noise2noise as noise2noise
from . import underwater as underwater
from . import water as water
