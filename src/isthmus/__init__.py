"""isthmus: find, measure and use the low-loss paths between trained networks.

Every public name is imported when it is first used, so `import isthmus` is instant. The names and where
they come from are written out in `__init__.pyi`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
