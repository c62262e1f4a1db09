"""asv's published page without network: the scripts that it takes from elsewhere, from a folder beside it.

The files lie in `quantkit/assets/asv_page`, their licences in NOTICE. Five of them are the very bytes that asv's page
asks for; flot comes as the source of the same version, and stupidtable as 1.1.3, since the package index of npm has
neither flot's minified files nor stupidtable 1.0.1.
"""

from __future__ import annotations

import re
from pathlib import Path

from quantkit.errors import NothingMeasured, Unsupported
from quantkit.files import asset, write_atomic

FOLDER = "vendor"
TAG = re.compile(r"""<(?:script|link)\b[^>]*?(?:src|href)="(?:https?:)?//[^"]+"[^>]*>""")
PLACE = re.compile(r"""(src|href)="((?:https?:)?//[^"]+)\"""")
FOREIGN = re.compile(r"""\s(?:integrity|crossorigin|referrerpolicy)="[^"]*\"""")
SCRIPTS = {  # address in asv's page, without its scheme -> our file, and its sha256
    "code.jquery.com/jquery-3.3.1.min.js": (
        "asv_page/jquery.min.js",
        "160a426ff2894252cd7cebbdd6d6b7da8fcd319c65b70468f10b6690c45d02ef",
    ),
    "cdnjs.cloudflare.com/ajax/libs/flot/0.8.3/jquery.flot.min.js": (
        "asv_page/jquery.flot.js",
        "b7b931f273c38b1277b9c6c1f4e05c4ec09885a487bddaf3279e2d7e49a38e12",
    ),
    "cdnjs.cloudflare.com/ajax/libs/flot/0.8.3/jquery.flot.time.min.js": (
        "asv_page/jquery.flot.time.js",
        "a582c832adc7138a6b05aaf61f16ebac274701f1be4afea77e739a1c34b9c41a",
    ),
    "cdnjs.cloudflare.com/ajax/libs/flot/0.8.3/jquery.flot.selection.min.js": (
        "asv_page/jquery.flot.selection.js",
        "e6c85f6c1ebe4b4da29d8ae238c7c5060283f05f7ef054f6b91817d02c092918",
    ),
    "cdnjs.cloudflare.com/ajax/libs/flot/0.8.3/jquery.flot.categories.min.js": (
        "asv_page/jquery.flot.categories.js",
        "6e81664b28ea795c734906f4aa15614640a75ac7fbd399a7fb9084040698351a",
    ),
    "cdn.jsdelivr.net/npm/flot-orderbars@1.0.0/js/jquery.flot.orderBars.js": (
        "asv_page/jquery.flot.orderBars.js",
        "39735b4f46f96ff4e082572401f47c55a2767b366fd1d1e821e44a8d830a12bf",
    ),
    "cdnjs.cloudflare.com/ajax/libs/stupidtable/1.0.1/stupidtable.min.js": (
        "asv_page/stupidtable.min.js",
        "4642380f28ebe9ed7cac251793b281ef8620c4386205d92788f9b12f5cceb4e0",
    ),
    "cdnjs.cloudflare.com/ajax/libs/blueimp-md5/2.19.0/js/md5.min.js": (
        "asv_page/md5.min.js",
        "64d7ded388c562e4bde9e58ce205e5fa01b9734fcd434d496eb7b4fbfe9b927d",
    ),
    "cdn.jsdelivr.net/npm/bootstrap@3.1.1/dist/js/bootstrap.min.js": (
        "asv_page/bootstrap.min.js",
        "898d05a17f2cfc5120ddcdba47a885c378c0b466f30f0700e502757e24b403a1",
    ),
    "cdn.jsdelivr.net/npm/bootstrap@3.1.1/dist/css/bootstrap.min.css": (
        "asv_page/bootstrap.min.css",
        "e9503448692b738dd260fbd7f7cabf2e11f09b600fa97e6eb3a56eba5b1a7e9b",
    ),
}


def offline(folder: Path) -> int:
    """Make a folder that `asv publish` wrote work without network; return how many files were brought in.

    A page that was rewritten before stays as it is.

    Raises:
        NothingMeasured: there is no such page.
        Unsupported: the page takes something that we do not have: it is another version of asv.
        StorageError: the folder cannot be written.
    """
    page = folder / "index.html"
    if not page.is_file():
        raise NothingMeasured(f"no page of asv in {folder}: run 'asv publish' first")
    text, names = page.read_text(), list[str]()

    def local(tag: re.Match[str]) -> str:
        found = PLACE.search(tag[0])
        assert found is not None
        name = _name(found[2])
        names.append(name)
        return FOREIGN.sub("", PLACE.sub(rf'\1="{FOLDER}/{name}"', tag[0]))

    text = TAG.sub(local, text)
    for name in names:
        location, sha256 = next(entry for entry in SCRIPTS.values() if Path(entry[0]).name == name)
        write_atomic(folder / FOLDER / name, asset(location, sha256).read_bytes())
    write_atomic(page, text.encode())
    return len(names)


def _name(address: str) -> str:
    known = SCRIPTS.get(address.partition("//")[2])
    if known is None:
        raise Unsupported(f"the page takes {address}, which quantkit does not have: publish with asv 0.6.6")
    return Path(known[0]).name
