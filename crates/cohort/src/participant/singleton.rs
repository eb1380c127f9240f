//! Signals of singleton beacons: a DID's own address announces its update, without a cohort.
//!
//! The transaction is on the disk with its signatures before it leaves, and is offered to the network until it is buried or
//! can never be mined any more. So long it counts among the live updates of its DID, which no other one of its version may
//! join on any beacon.

use beacon_signal::{Index, UpdateId, transaction};
use bitcoin::{OutPoint, Transaction, Txid};
use serde::{Deserialize, Serialize};

use super::state::{Standing, State};
use super::{Event, Participant};
use crate::machine::{
    BroadcastOutcome, Code, Effect, OutputView, Rejection, Step, TransactionView,
};
use crate::message::shortened;
use crate::values::transaction_hex;

/// Blocks from which on a signal counts as settled, the one that it is in included: what resolvers wait for by default.
const CONFIRMATIONS: u32 = 6;

/// Signals of singleton beacons that may be under way at one time: each costs questions to the chain source.
const MAX_LIVE: usize = 64;

/// Settled ones that are remembered: the oldest are forgotten. Updates themselves are kept for ever, elsewhere.
const MAX_SETTLED: usize = 256;

/// A spend of a singleton beacon's address.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SingletonSignal {
    /// The DID whose beacon it is.
    pub did: String,
    /// The update that it announces.
    pub update: UpdateId,
    /// With all signatures.
    #[serde(with = "transaction_hex")]
    pub tx: Transaction,
    /// Its id.
    pub txid: Txid,
    /// Where it stands.
    pub standing: Standing,
    /// Why our chain source would not have it, since it was signed or seen last.
    pub refusal: Option<String>,
    /// Another transaction that spends one of its inputs, and may be mined in its place.
    pub conflict: Option<Txid>,
}

impl SingletonSignal {
    fn inputs(&self) -> impl Iterator<Item = OutPoint> {
        self.tx.input.iter().map(|input| input.previous_output)
    }

    fn is_live(&self) -> bool {
        !self.standing.is_settled()
    }
}

impl Participant {
    /// Takes a signed transaction over, once nothing speaks against its update.
    pub(super) fn announce_singleton(
        &self,
        did: String,
        update: UpdateId,
        version: u64,
        tx: Transaction,
    ) -> Result<Step<Event>, Rejection> {
        let announced = transaction::signal_bytes(&tx).map(UpdateId);
        if announced != Some(update) || tx.input.is_empty() {
            let got = match announced {
                Some(announced) => format!("a transaction that announces {announced}"),
                None => "a transaction that announces nothing".to_owned(),
            };
            return Err(Rejection::new(Code::Invalid, got, format!("{update}")));
        }
        let txid = tx.compute_txid();
        if self.state.singletons.iter().any(|known| known.txid == txid) {
            return Ok(Step::nothing().with(Effect::Broadcast(tx)));
        }
        let index = Index::of_did(&did);
        let versioned = self.versioned(update, Some(version))?;
        self.has_no_rival(None, index, update, Some(version))?;
        for live in self.state.live_singletons(index) {
            // The same input can be spent once only: whichever is mined, the update is announced once and paid for once.
            let mut inputs = live.inputs();
            let replaces =
                inputs.any(|spent| tx.input.iter().any(|input| input.previous_output == spent));
            if live.update == update && !replaces {
                let got = "another transaction that announces the same update";
                let expected = format!("none, or one that spends an input of {}", live.txid);
                return Err(Rejection::new(Code::Conflict, got, expected));
            }
        }
        let live = self.state.singletons.iter();
        if live.filter(|signal| signal.is_live()).count() >= MAX_LIVE {
            let got = "one more signal of a singleton beacon";
            let expected = format!("at most {MAX_LIVE} that are not buried");
            return Err(Rejection::new(Code::Limit, got, expected));
        }
        let signed = Event::SingletonSigned {
            did,
            update,
            tx: tx.clone(),
        };
        Ok(versioned
            .and(Step::event(signed))
            .with(Effect::Broadcast(tx)))
    }

    /// What became of an offer. Only the first refusal is written down: it comes again with every offer.
    pub(super) fn singleton_offered(&self, txid: Txid, outcome: &BroadcastOutcome) -> Step<Event> {
        let Some(signal) = self.state.live_singleton(txid) else {
            return Step::nothing();
        };
        match outcome {
            BroadcastOutcome::Accepted if signal.standing == Standing::Live => {
                Step::event(Event::SingletonPublished { txid })
            }
            BroadcastOutcome::Refused(reason) if signal.refusal.is_none() => {
                let reason = shortened(reason);
                Step::event(Event::SingletonRefused { txid, reason })
            }
            _ => Step::nothing(),
        }
    }

    /// An input is spent: by the signal itself, or by something else.
    pub(super) fn singleton_spent(&self, outpoint: OutPoint, view: &OutputView) -> Step<Event> {
        let OutputView::Seen {
            spent_by: Some(other),
            ..
        } = *view
        else {
            return Step::nothing();
        };
        let mut step = Step::nothing();
        for signal in self.state.singletons.iter().filter(|live| live.is_live()) {
            let spends = signal.inputs().any(|spent| spent == outpoint);
            if spends && signal.txid != other && signal.conflict != Some(other) {
                let txid = signal.txid;
                step.events.push(Event::SingletonConflict { txid, other });
            }
        }
        step
    }

    /// Where a transaction is: a signal, or what spends a signal's input.
    pub(super) fn singleton_seen(
        &self,
        txid: Txid,
        view: TransactionView,
        tip: u32,
    ) -> Step<Event> {
        let deep = |height: u32| tip.saturating_sub(height).saturating_add(1) >= CONFIRMATIONS;
        let mut step = Step::nothing();
        let live = self.state.singletons.iter().filter(|live| live.is_live());
        for signal in live.filter(|signal| signal.conflict == Some(txid)) {
            match view {
                TransactionView::Confirmed { height, .. } if deep(height) => {
                    let txid = signal.txid;
                    step.events.push(Event::SingletonSuperseded { txid });
                }
                TransactionView::Unknown => {
                    step = step.with(Effect::Broadcast(signal.tx.clone()));
                }
                _ => {}
            }
        }
        let Some(signal) = self.state.live_singleton(txid) else {
            return step;
        };
        step.and(match (signal.standing, view) {
            (
                Standing::Confirmed { height, block_hash },
                TransactionView::Confirmed {
                    height: at,
                    block_hash: in_block,
                },
            ) if (height, block_hash) == (at, in_block) => {
                if deep(height) {
                    Step::event(Event::SingletonBuried { txid })
                } else {
                    Step::nothing()
                }
            }
            (_, TransactionView::Confirmed { height, block_hash }) => {
                Step::event(Event::SingletonConfirmed {
                    txid,
                    height,
                    block_hash,
                })
            }
            (Standing::Published, TransactionView::Mempool) => Step::nothing(),
            (_, TransactionView::Mempool) => Step::event(Event::SingletonPublished { txid }),
            // Never offered, dropped, or its block was replaced.
            (standing, TransactionView::Unknown) => {
                let gone = match standing {
                    Standing::Confirmed { .. } => Step::event(Event::SingletonGone { txid }),
                    _ => Step::nothing(),
                };
                match signal.conflict {
                    Some(_) => gone, // As long as the other one is there, this is refused.
                    None => gone.with(Effect::Broadcast(signal.tx.clone())),
                }
            }
        })
    }
}

impl State {
    /// Signals of singleton beacons that may announce an update of this DID.
    pub(super) fn live_singletons(&self, index: Index) -> impl Iterator<Item = &SingletonSignal> {
        let live = self.singletons.iter().filter(|signal| signal.is_live());
        live.filter(move |signal| Index::of_did(&signal.did) == index)
    }

    fn live_singleton(&self, txid: Txid) -> Option<&SingletonSignal> {
        let mut live = self.singletons.iter().filter(|signal| signal.is_live());
        live.find(|signal| signal.txid == txid)
    }

    /// Outputs that live signals spend.
    pub(super) fn singleton_inputs(&self) -> impl Iterator<Item = OutPoint> {
        let live = self.singletons.iter().filter(|signal| signal.is_live());
        live.flat_map(SingletonSignal::inputs)
    }

    /// Live signals, and what may be mined in the place of one.
    pub(super) fn singleton_transactions(&self) -> impl Iterator<Item = Txid> {
        let live = self.singletons.iter().filter(|signal| signal.is_live());
        live.flat_map(|signal| std::iter::once(signal.txid).chain(signal.conflict))
    }

    pub(super) fn apply_singleton(&mut self, event: &Event) {
        if let Event::SingletonSigned { did, update, tx } = event {
            self.forget_settled();
            self.singletons.push(SingletonSignal {
                did: did.clone(),
                update: *update,
                tx: tx.clone(),
                txid: tx.compute_txid(),
                standing: Standing::Live,
                refusal: None,
                conflict: None,
            });
            return;
        }
        let (Event::SingletonRefused { txid, .. }
        | Event::SingletonConflict { txid, .. }
        | Event::SingletonPublished { txid }
        | Event::SingletonConfirmed { txid, .. }
        | Event::SingletonGone { txid }
        | Event::SingletonBuried { txid }
        | Event::SingletonSuperseded { txid }) = event
        else {
            return;
        };
        let mut known = self.singletons.iter_mut();
        let Some(signal) = known.find(|signal| signal.txid == *txid) else {
            return;
        };
        signal.standing = match (event, signal.standing) {
            (Event::SingletonRefused { reason, .. }, standing) => {
                signal.refusal = Some(reason.clone());
                standing
            }
            (Event::SingletonConflict { other, .. }, standing) => {
                signal.conflict = Some(*other);
                standing
            }
            (
                Event::SingletonConfirmed {
                    height, block_hash, ..
                },
                _,
            ) => Standing::Confirmed {
                height: *height,
                block_hash: *block_hash,
            },
            (Event::SingletonBuried { .. }, Standing::Confirmed { height, block_hash }) => {
                Standing::Buried { height, block_hash }
            }
            (Event::SingletonGone { .. }, _) => Standing::Live,
            (Event::SingletonSuperseded { .. }, _) => Standing::Superseded,
            (Event::SingletonPublished { .. }, _) => Standing::Published,
            (_, standing) => standing,
        };
        if signal.standing != Standing::Live {
            signal.refusal = None;
        }
    }

    /// Makes room for one more.
    fn forget_settled(&mut self) {
        let settled = self.singletons.iter().filter(|signal| !signal.is_live());
        let mut surplus = (settled.count() + 1).saturating_sub(MAX_SETTLED);
        self.singletons.retain(|signal| {
            let goes = surplus > 0 && !signal.is_live();
            surplus -= usize::from(goes);
            !goes
        });
    }
}
