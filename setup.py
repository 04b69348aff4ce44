"Requirements come from settings.ini, so that they are written down once; everything else is in pyproject.toml."
from configparser import ConfigParser
from pathlib import Path
from setuptools import setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
ini = ConfigParser()
ini.read(HERE / 'settings.ini', encoding='utf8')
own = ini['DEFAULT']


class WithSettings(build_py):
    "edgewb reads its section of settings.ini at run time; an installed package has its own copy beside core.py."
    def run(self):
        super().run()
        if not self.editable_mode:
            self.copy_file(str(HERE / 'settings.ini'), str(Path(self.build_lib) / 'edgewb' / 'settings.ini'))


setup(install_requires=own['requirements'].split(), extras_require={'dev': own['dev_requirements'].split()},
      cmdclass={'build_py': WithSettings})
