"""A Jupyter-first workbench for running Gemma 4 on edge hardware.

`import edgewb` loads no engine and next to nothing else: each name below is fetched from its module when it is first used.
"""
__version__ = "0.1.0"

import sys as _sys
from importlib import import_module as _import_module
from types import ModuleType as _ModuleType
from typing import TYPE_CHECKING as _TYPE_CHECKING

_PUBLIC = {
    'core': 'EdgewbError UnknownModel UnknownEngine UnknownFormat BadBuild BadMedia BadTemplate BadCall Unsupported PromptTooLong NotEnoughMemory NotEnoughDisk NoAccess DownloadFailed EngineDied PromptMismatch UnknownHardware BadProfile BadRecords',
    'hardware': 'Hardware detect',
    'gemma4': 'catalogue model shapes',
    'recipes': 'inventory',
    'cost': 'bytes_per_token fits',
    'profiles': 'Profile',
    'roofline': 'Prediction Probe predict',
    'weights': 'Build build engines formats models',
    'hub': 'Download fetch',
    'chat': 'Media render render_parts',
    'reply': 'Event Parser events parse',
    'tools': 'Tool call converse declare tool turn',
    'session': 'Reply Session Target Token generate load stream',
    'speed': 'Bench bench',
    'compare': 'Comparison compare',
    'conform': 'Conformance conform',
    'doctor': 'Checkup doctor',
    'widgets': 'CompareWidget load_ipython_extension',
}
_HOME = {name: module for module, names in _PUBLIC.items() for name in names.split()}
__all__ = ['__version__', *_HOME]

if _TYPE_CHECKING:
    from .core import (EdgewbError, UnknownModel, UnknownEngine, UnknownFormat, BadBuild, BadMedia, BadTemplate, BadCall, Unsupported, PromptTooLong,
                       NotEnoughMemory, NotEnoughDisk, NoAccess, DownloadFailed, EngineDied, PromptMismatch,
                       UnknownHardware, BadProfile, BadRecords)
    from .hardware import Hardware, detect
    from .gemma4 import catalogue, model, shapes
    from .recipes import inventory
    from .cost import bytes_per_token, fits
    from .profiles import Profile
    from .roofline import Prediction, Probe, predict
    from .weights import Build, build, engines, formats, models
    from .hub import Download, fetch
    from .chat import Media, render, render_parts
    from .reply import Event, Parser, events, parse
    from .tools import Tool, call, converse, declare, tool, turn
    from .session import Reply, Session, Target, Token, generate, load, stream
    from .speed import Bench, bench
    from .compare import Comparison, compare
    from .conform import Conformance, conform
    from .doctor import Checkup, doctor
    from .widgets import CompareWidget, load_ipython_extension


def __getattr__(name):
    if name in _PUBLIC: return _import_module(f'edgewb.{name}')
    if name not in _HOME: raise AttributeError(f"module 'edgewb' has no attribute '{name}'")
    return getattr(_import_module(f'edgewb.{_HOME[name]}'), name)


def __dir__():
    return sorted({*globals(), *_HOME})


class _Package(_ModuleType):
    "`edgewb.compare`, `edgewb.conform` and `edgewb.doctor` are the functions also after the modules of those names were imported, when Python would put the modules there."
    @property
    def compare(self): return _import_module('edgewb.compare').compare
    @compare.setter
    def compare(self, module): pass
    @property
    def conform(self): return _import_module('edgewb.conform').conform
    @conform.setter
    def conform(self, module): pass
    @property
    def doctor(self): return _import_module('edgewb.doctor').doctor
    @doctor.setter
    def doctor(self, module): pass


_sys.modules[__name__].__class__ = _Package
