"""Files as the kubelet mounts them."""

from __future__ import annotations

from pathlib import Path


class Mounted:
    """A mounted ConfigMap or Secret: files are links into a folder, which is exchanged at once.

    Args:
        folder: Where it is mounted; is made.
        files: Name to content.
    """

    def __init__(self, folder: Path, files: dict[str, str]) -> None:
        self.folder = folder
        self._count = 0
        folder.mkdir(parents=True, exist_ok=True)
        self.write(files)
        for name in files:
            (folder / name).symlink_to(Path("..data") / name)

    def read(self, name: str) -> str:
        """What a file says now."""
        return (self.folder / name).read_text()

    def write(self, files: dict[str, str]) -> None:
        """Exchanges all of it."""
        self._count += 1
        version = self.folder / f"..version{self._count}"
        version.mkdir()
        for name, content in files.items():
            (version / name).write_text(content)
        link = self.folder / "..data_tmp"
        link.symlink_to(version.name)
        link.rename(self.folder / "..data")
