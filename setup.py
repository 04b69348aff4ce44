"Requirements come from settings.ini, so that they are written down once; everything else is in pyproject.toml."
from configparser import ConfigParser
from pathlib import Path
from setuptools import setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
ini = ConfigParser()
ini.read(HERE / 'settings.ini', encoding='utf8')
own = ini['DEFAULT']


class WithData(build_py):
    "What edgewb reads at run time and lies beside the package: its section of settings.ini, and the hardware profiles. An installed package has copies inside."
    def run(self):
        super().run()
        if not self.editable_mode:
            self.copy_file(str(HERE / 'settings.ini'), str(Path(self.build_lib) / 'edgewb' / 'settings.ini'))
            folder = Path(self.build_lib) / 'edgewb' / 'hardware_profiles'
            self.mkpath(str(folder))
            for f in sorted((HERE / 'hardware_profiles').glob('*.toml')): self.copy_file(str(f), str(folder / f.name))


setup(install_requires=own['requirements'].split(), extras_require={'dev': own['dev_requirements'].split()},
      cmdclass={'build_py': WithData})
