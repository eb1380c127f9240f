#!/usr/bin/env python3
"""What the scripts need beside bash: JSON, HTTP and a free port. Standard library only.

  tool.py get PATH...        value of each dotted path in the JSON object on standard input, one per line
  tool.py pretty             the JSON on standard input, indented
  tool.py port               a TCP port of 127.0.0.1 that is free now
  tool.py post URL           sends an empty POST request and prints the answer
  tool.py signal URL TXID    reads a beacon signal from the chain: its 32 bytes, its height (or -) and the
                             transaction ids that it spends from, on one line
  tool.py alter FILE PATH    flips one bit of the base64url value at a dotted path of a JSON file
"""

import base64
import json
import socket
import sys
import urllib.error
import urllib.request

# A proxy from the environment has no business with loopback addresses.
HTTP = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def request(url, method="GET"):
    data = b"" if method == "POST" else None
    try:
        with HTTP.open(urllib.request.Request(url, data=data, method=method), timeout=60) as answer:
            return answer.read().decode()
    except urllib.error.HTTPError as error:
        sys.exit(f"{method} {url}: {error.code} {error.read().decode(errors='replace').strip()}")
    except OSError as error:
        sys.exit(f"{method} {url}: {error}")


def look_up(value, path):
    for name in path.split("."):
        try:
            value = value[int(name)] if isinstance(value, list) else value[name]
        except (KeyError, IndexError, TypeError, ValueError):
            sys.exit(f"no {path} in {json.dumps(value)[:200]}")
    return value


def get(paths):
    value = json.load(sys.stdin)
    for path in paths:
        found = look_up(value, path)
        print(found if isinstance(found, str) else json.dumps(found))


def signal(url, txid):
    tx = json.loads(request(f"{url}/tx/{txid}"))
    script = tx["vout"][-1]["scriptpubkey"]
    # OP_RETURN and a push of exactly 32 bytes.
    if not script.startswith("6a20") or len(script) != 2 * 34:
        sys.exit(f"last output of {txid}: got script {script}, expected 6a20 and 32 bytes")
    height = tx["status"].get("block_height", "-")
    print(script[4:], height, *(vin["txid"] for vin in tx["vin"]))


def alter(file, path):
    with open(file, encoding="utf-8") as source:
        document = json.load(source)
    *parents, last = path.split(".")
    parent = look_up(document, ".".join(parents)) if parents else document
    key = int(last) if isinstance(parent, list) else last
    text = look_up(parent, last)
    raw = bytearray(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    raw[0] ^= 1
    parent[key] = base64.urlsafe_b64encode(raw).decode().rstrip("=")
    with open(file, "w", encoding="utf-8") as target:
        json.dump(document, target)


def port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        print(listener.getsockname()[1])


def main(arguments):
    match_count = {"pretty": 0, "port": 0, "post": 1, "signal": 2, "alter": 2}
    command, *rest = arguments or [""]
    if command == "get" and rest:
        return get(rest)
    if match_count.get(command) != len(rest):
        sys.exit(__doc__)
    if command == "pretty":
        print(json.dumps(json.load(sys.stdin), indent=2))
    elif command == "port":
        port()
    elif command == "post":
        print(request(rest[0], "POST"))
    elif command == "signal":
        signal(*rest)
    else:
        alter(*rest)


main(sys.argv[1:])
