//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;

const EXAMPLES: &str = "\
Examples:
  beacon-regtest                                     a new chain on a free port, gone when it stops
  beacon-regtest --listen 127.0.0.1:3002 --data-dir ./chain
  beacon-regtest --json | head -1                    {\"event\":\"ready\",\"url\":\"http://127.0.0.1:40123\",...}

  curl -X POST 'http://127.0.0.1:3002/regtest/fund?address=bcrt1p...&sats=100000'
  curl -X POST 'http://127.0.0.1:3002/regtest/mine?blocks=1'
  curl -X POST 'http://127.0.0.1:3002/regtest/reorg?depth=2'
  curl http://127.0.0.1:3002/blocks/tip/height

Paths:
  Esplora's: /blocks/tip/height, /blocks/tip/hash, /block-height/H, /block/HASH[/header|/status|/raw|/txids],
  /tx/TXID[/raw|/hex|/status|/outspends|/outspend/N], POST /tx, /address/A[/utxo|/txs[/chain[/TXID]]],
  /scripthash/H[/utxo|/txs[/chain[/TXID]]], /fee-estimates, /mempool, /mempool/txids
  Control: POST /regtest/mine, /regtest/fund (stays in the mempool until a block is mined), /regtest/reorg

Exit codes:
  0  stopped by SIGTERM or ctrl-C
  1  cannot run: the address is taken, or the data directory is in use or unusable
  2  the command line is wrong

Logs go to standard error; RUST_LOG=debug shows more.";

/// A private Bitcoin regtest chain in one process, validated by Bitcoin Core's own code and served
/// with Esplora's paths on the loopback interface.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Address to listen on: loopback only, since the control paths ask for no password. Port 0
    /// takes a free one.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:0", value_parser = loopback)]
    pub(crate) listen: SocketAddr,

    /// Directory for the blocks, made if it does not exist. Without it the chain is a new one in a
    /// temporary directory. The mempool is never kept.
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,

    /// Print the ready line as a JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

fn loopback(text: &str) -> Result<SocketAddr, String> {
    let expected = "expected a loopback address with a port, such as 127.0.0.1:3002";
    let address: SocketAddr = text.parse().map_err(|_| expected.to_owned())?;
    if address.ip().is_loopback() {
        Ok(address)
    } else {
        Err(format!("got {}, {expected}", address.ip()))
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn only_loopback_is_listened_on() {
        assert!(loopback("127.0.0.1:0").is_ok());
        assert!(loopback("[::1]:3002").is_ok());
        for bad in [
            "0.0.0.0:80",
            "192.168.1.1:80",
            "[::]:80",
            "localhost:80",
            "127.0.0.1",
            "",
        ] {
            let error = loopback(bad).unwrap_err();
            assert!(error.contains("expected a loopback address"), "{error}");
        }
    }
}
