"""DistilBERT, ALBERT and BERT from scratch: exact, fast, complete and readable.

The public names stand in `__init__.pyi`. Each is imported on its first use, so that `import minilm`
costs nothing.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ += ["__version__"]
