"""Words of programs and of computing that are right wherever they stand, whatever the language."""

from __future__ import annotations

_WORDS = """
abs acc addr alloc api apis arg argc args argv arr ascii async attr attrs auth autoload await awk bash bool
boolean btn buf bytearray cd chmod chr cin classmethod classpath cli cls cmake cmd cmp codec config const
constexpr contenteditable coord cors cout cpp cpu csrf css csv ctx cuda curl cwd daemon datetime dbl debian
def del deque desc dest dev dict diff dir dirname dirs div dns doc docker docstring docstrings dom dst dtype
dtypes elem elif elseif endfor endif endl endpoint endwhile enum env eof err eval exe exec expr ext extern
fallthrough fclose fd fflush fgets fifo filename filenames filepath fmt fopen foreach fprintf frozenset
fscanf ftp func fwrite gcc getattr getenv git github gnu goto gpu grep groupby gui hasattr hex href html
http https ide ids idx iff impl incl inf init inline inode inout inplace instanceof int ints io ip
isinstance issubclass iter javascript json jsx jupyter jwt kernel keyerror kwarg kwargs lang ldap len lib
libc libs lint linux localhost lru malloc math max md memcpy memset metadata mkdir mutex namespace
namespaces nan ndarray nginx nil nonlocal noop npm null nullable nullptr num numpy oauth obj onclick oop opt
orm os param params parseint pathlib pdf perl php pid pip pkg png posix pre preprocess printf println proc
pthread ptr pwd py pypi pytest python pytorch qt queryset ram rand readline readme realloc redis ref refs
regex regexp repl repo repos repr req rest ret rgb rm rmdir rpc rsa rtl runtime rust sass scanf scp sdk sed
self setattr sha shl shr sizeof sprintf sql sqlite sqrt src ssh ssl staticmethod std stderr stdin stdio
stdlib stdout str strcmp strcpy strlen struct structs subclass subprocess substr sudo svg swagger symlink
sync sys syscall sysctl systemd tcp tensor tensorflow tls tmp toml traceback tuple tuples txt typedef
typeerror typeof ubuntu udp ui uid uint unicode unix unsigned uri url urls usb usr utf util utils uuid val
valueerror var varchar vars vec vim virtualenv vm vpn wasm webpack wget whitespace wiki wsgi xhtml xml xor
xpath xss yaml yml zeros zip
"""
TECHNICAL = frozenset(_WORDS.split())
"""In lower case."""
