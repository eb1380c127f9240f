#!/usr/bin/env python3
"""What the scripts ask of a Bitcoin Core node on regtest that has no wallet. Standard library only.

  node.py URL COOKIE ready                     fails unless the node answers
  node.py URL COOKIE mine BLOCKS               mines
  node.py URL COOKIE pay NUMBER ADDRESS SATS   pays with the coin of block NUMBER, which must be 100 blocks old
  node.py URL COOKIE signal TXID               reads a beacon signal of the last 20 blocks: its 32 bytes, its height (or -)
                                               and the transaction ids that it spends from, on one line

Blocks are mined to the script OP_TRUE behind a P2WSH address, so that whoever spends their coins needs no key.
"""

import base64
import json
import sys
import urllib.error
import urllib.request

HTTP = urllib.request.build_opener(urllib.request.ProxyHandler({}))
OP_TRUE = "51"
FEE = 1_000
COIN = 100_000_000


class Node:
    def __init__(self, url, cookie):
        self.url, self.cookie = url, cookie

    def call(self, method, *params):
        with open(self.cookie, "rb") as file:
            secret = base64.b64encode(file.read().strip()).decode()
        body = json.dumps({"jsonrpc": "2.0", "id": 0, "method": method, "params": params}).encode()
        request = urllib.request.Request(self.url, data=body, headers={"Authorization": f"Basic {secret}"})
        with HTTP.open(request, timeout=60) as answer:
            answer = json.load(answer)
        if answer.get("error"):
            sys.exit(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def ready(self):
        self.call("getblockcount")

    def miner(self):
        return self.call("decodescript", OP_TRUE)["segwit"]["address"]

    def mine(self, blocks):
        self.call("generatetoaddress", int(blocks), self.miner())

    def pay(self, number, address, sats):
        block = self.call("getblock", self.call("getblockhash", int(number)), 2)
        coin = block["tx"][0]
        value = round(coin["vout"][0]["value"] * COIN)
        change = value - int(sats) - FEE
        inputs = [{"txid": coin["txid"], "vout": 0}]
        outputs = [{address: amount(int(sats))}, {self.miner(): amount(change)}]
        unsigned = self.call("createrawtransaction", inputs, outputs)
        # BIP144: marker and flag behind the version, the witness before the lock time. One item: the script.
        signed = unsigned[:8] + "0001" + unsigned[8:-8] + "01" + "01" + OP_TRUE + unsigned[-8:]
        self.call("sendrawtransaction", signed)

    def signal(self, txid):
        height = self.call("getblockcount")
        for at in range(height, max(height - 20, 0), -1):
            block = self.call("getblock", self.call("getblockhash", at), 2)
            for tx in block["tx"]:
                if tx["txid"] == txid:
                    return show(tx, at)
        return show(self.call("getrawtransaction", txid, True), "-")


def amount(sats):
    return f"{sats // COIN}.{sats % COIN:08}"


def show(tx, height):
    script = tx["vout"][-1]["scriptPubKey"]["hex"]
    # OP_RETURN and a push of exactly 32 bytes.
    if not script.startswith("6a20") or len(script) != 2 * 34:
        sys.exit(f"last output of {tx['txid']}: got script {script}, expected 6a20 and 32 bytes")
    print(script[4:], height, *(vin["txid"] for vin in tx["vin"]))


def main(arguments):
    counts = {"ready": 0, "mine": 1, "pay": 3, "signal": 1}
    if len(arguments) < 3 or counts.get(arguments[2]) != len(arguments) - 3:
        sys.exit(__doc__)
    url, cookie, command, *rest = arguments
    try:
        getattr(Node(url, cookie), command)(*rest)
    except OSError as error:
        sys.exit(f"{command}: {error}")


main(sys.argv[1:])
