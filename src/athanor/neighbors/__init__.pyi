# Written by tests/architecture/door_stubs.py from athanor/_doors.py and the __init__.py beside it.

from athanor.neighbors.build import compute_neighbors as compute_neighbors
from athanor.neighbors.config import NeighborConfig as NeighborConfig
from athanor.neighbors.config import NeighborListFormat as NeighborListFormat
