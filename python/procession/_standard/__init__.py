"""The name under which the standard library's multiprocessing is to be found when `multiprocessing` means this package.

`procession._standard.reduction` is its module `reduction`: what is pickled by such a name can be loaded in any process.
"""

from .. import _originals

_originals.find_by_this_name()
