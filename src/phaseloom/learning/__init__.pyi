from .trainer import NetworkTraining as NetworkTraining
from .weight_files import find_network as find_network
from .weight_files import list_shipped as list_shipped
from .weight_files import load_card as load_card
from .weight_files import load_network as load_network
from .weight_files import save_network as save_network
