"""The landscape over a plane: the field's best-known picture, for any three models."""

from isthmus.surfaces.scale import Scale as Scale
from isthmus.surfaces.scale import scale_of as scale_of
from isthmus.surfaces.scan import scan_plane as scan_plane
from isthmus.surfaces.scan import scan_splits as scan_splits
from isthmus.surfaces.surface import Interpolated as Interpolated
from isthmus.surfaces.surface import Projected as Projected
from isthmus.surfaces.surface import Quantity as Quantity
from isthmus.surfaces.surface import Shown as Shown
from isthmus.surfaces.surface import Surface as Surface
