//! What both machines have in common: inputs, steps, effects, and how a peer's fault is named.
//!
//! A machine is a pure function of its log. [`Machine::step`] looks at an input and says what should be recorded
//! and done; nothing has changed yet. The driver commits the events, and only then applies them and carries the
//! effects out. Handlers record facts; [`Input::Tick`] derives the progress that the facts allow (a cohort is
//! full, all nonces are in, a deadline has passed). The driver ticks until a tick has nothing more to record, so
//! progress survives a crash between two commits by itself.

use std::fmt;

use beacon_signal::Index;
use bitcoin::{BlockHash, OutPoint, ScriptBuf, Transaction, TxOut, Txid};
use rand_core::CryptoRng;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::ids::{CohortId, PeerId, Timestamp};
use crate::message::{DidContest, Message, shortened};
use crate::signer::{SignerAnswer, SignerRequest};

/// A participant or a coordinator, without IO.
pub trait Machine {
    /// What the log holds.
    type Event: Serialize + DeserializeOwned + Clone + fmt::Debug + PartialEq + Send + 'static;
    /// What a user can ask for.
    type Command: fmt::Debug + Send + 'static;
    /// All that the machine remembers. Snapshots hold it, so the same rules of compatibility apply as to events, and
    /// whatever must be kept for ever is in it.
    type State: Serialize + DeserializeOwned + PartialEq;

    /// Looks at an input; changes nothing.
    fn step(
        &self,
        input: Input<Self::Command>,
        now: Timestamp,
        rng: &mut dyn CryptoRng,
    ) -> Result<Step<Self::Event>, Rejection>;

    /// Changes the state by an event that is on disk. The only way to change it.
    fn apply(&mut self, event: &Self::Event);

    /// What replaying the log has given so far.
    fn state(&self) -> &Self::State;

    /// Takes a snapshot's state, in place of replaying the events that led to it.
    fn restore(&mut self, state: Self::State);

    /// When a tick will have something to do at the latest, if nothing else happens.
    fn next_deadline(&self) -> Option<Timestamp>;

    /// What the chain should be asked about, as long as the state is this one.
    fn watches(&self) -> Watches;
}

/// Something that happened outside.
#[derive(Debug)]
pub enum Input<C> {
    /// A message of a proven sender.
    Message {
        /// The sender.
        from: PeerId,
        /// Which of our identities it was meant for.
        to: PeerId,
        /// Parsed.
        message: Message,
    },
    /// A problem report of a proven sender.
    Problem {
        /// The sender.
        from: PeerId,
        /// The cohort on whose thread it came, if it names one.
        cohort: Option<CohortId>,
        /// Such as `e.m.cohort-full`.
        code: String,
        /// For people.
        comment: String,
    },
    /// A user's command.
    Command(C),
    /// What the chain source says.
    Chain(ChainFact),
    /// What the signer answered.
    Signer(SignerAnswer),
    /// Whether a peer controls a DID.
    Control(ControlAnswer),
    /// The process has started: everything that lived in memory only is gone.
    Restarted,
    /// Nothing new but the time.
    Tick,
}

/// What should be recorded and done.
#[derive(Debug)]
#[must_use = "a step that is not committed and carried out is lost"]
pub struct Step<E> {
    /// To be committed together, then applied in order.
    pub events: Vec<E>,
    /// To be carried out after the commit. Messages are committed with the events, in the outbox.
    pub effects: Vec<Effect>,
}

impl<E> Default for Step<E> {
    fn default() -> Self {
        Self {
            events: Vec::new(),
            effects: Vec::new(),
        }
    }
}

impl<E> Step<E> {
    /// Nothing to record, nothing to do.
    pub fn nothing() -> Self {
        Self::default()
    }

    /// Records one event.
    pub fn event(event: E) -> Self {
        Self {
            events: vec![event],
            effects: Vec::new(),
        }
    }

    /// And all of another step.
    pub fn and(mut self, other: Self) -> Self {
        self.events.extend(other.events);
        self.effects.extend(other.effects);
        self
    }

    /// Or another step, where there is nothing in this one.
    pub fn or(self, other: impl FnOnce() -> Self) -> Self {
        if self.is_empty() { other() } else { self }
    }

    /// And an effect.
    pub fn with(mut self, effect: Effect) -> Self {
        self.effects.push(effect);
        self
    }

    /// And a message.
    pub fn send(self, to: &PeerId, message: impl Into<Message>, expires: Timestamp) -> Self {
        self.with(Effect::Send {
            to: to.clone(),
            message: message.into(),
            expires,
        })
    }

    /// Whether there is nothing to record and nothing to do.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty() && self.effects.is_empty()
    }
}

/// Something to do after the commit.
#[derive(Debug)]
pub enum Effect {
    /// Deliver a message, if it can be delivered before `expires`.
    Send {
        /// The recipient.
        to: PeerId,
        /// The message.
        message: Message,
        /// When it is of no use any more.
        expires: Timestamp,
    },
    /// Give a transaction to the network. The outcome comes back as [`ChainFact::Broadcast`].
    Broadcast(Transaction),
    /// Tell a peer what was wrong, though something was recorded as well.
    Report {
        /// Whose doing it was.
        to: PeerId,
        /// The cohort that it concerns: the report's parent thread.
        cohort: CohortId,
        /// What it was.
        rejection: Rejection,
    },
    /// Ask the signer. Its answer comes back as [`Input::Signer`].
    Sign(SignerRequest),
    /// Find out whether a peer controls a DID. The answer comes back as [`Input::Control`].
    ProveControl(Box<ControlQuestion>),
}

/// A claim to control a DID, to be judged by whoever knows the DID's method.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlQuestion {
    /// Of the DID.
    pub index: Index,
    /// Who claims it.
    pub peer: PeerId,
    /// The claim: [`statement::control`](crate::statement::control), signed by a key that may update the newest document.
    pub contest: DidContest,
}

/// The judgement of a [`ControlQuestion`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlAnswer {
    /// The cohort.
    pub cohort: CohortId,
    /// Of the DID.
    pub index: Index,
    /// Who claims it.
    pub peer: PeerId,
    /// Whether it does.
    pub verdict: ControlVerdict,
}

/// Whether a peer controls a DID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlVerdict {
    /// It does.
    Proven,
    /// It did not show that it does, and why.
    Unproven(String),
    /// That could not be found out now, and why.
    Unavailable(String),
}

/// What a machine wants to hear about from the chain. Derived from its state, so nothing needs restoring.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watches {
    /// Unspent outputs of these scripts.
    pub scripts: Vec<ScriptBuf>,
    /// What is known of these outputs.
    pub outpoints: Vec<OutPoint>,
    /// Of outputs with these scripts, whether what spends them does so by a leaf of the script tree: asked before anything
    /// else is said of their spends.
    pub script_trees: Vec<ScriptBuf>,
    /// What transactions that wait for a review would spend: the inputs of each are asked for together.
    pub inputs: Vec<Vec<OutPoint>>,
    /// Where these transactions stand.
    pub transactions: Vec<Txid>,
    /// The fee rate that is expected to bring a transaction into one of so many next blocks.
    pub fee_target: Option<u16>,
}

/// An unspent output of a watched script.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Fund {
    /// Where it is.
    pub outpoint: OutPoint,
    /// Its value, sat.
    pub value: u64,
    /// Height of its block; `None` while it waits in the mempool.
    pub height: Option<u32>,
}

/// What a chain source knows of an output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutputView {
    /// Nothing, so far.
    Unseen,
    /// It exists.
    Seen {
        /// Script and value.
        output: TxOut,
        /// 0 while its transaction waits in the mempool.
        confirmations: u32,
        /// The transaction that spends it, if one is known.
        spent_by: Option<Txid>,
    },
}

/// Where a transaction stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionView {
    /// The source does not know it.
    Unknown,
    /// It waits for a block.
    Mempool,
    /// It is in a block.
    Confirmed {
        /// The block's height.
        height: u32,
        /// The block.
        block_hash: BlockHash,
    },
}

/// What became of a broadcast.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BroadcastOutcome {
    /// The source has the transaction.
    Accepted,
    /// The source refuses it, with its reason.
    Refused(String),
    /// The source could not be asked.
    Unavailable,
}

/// What the chain source says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChainFact {
    /// All unspent outputs of a watched script.
    Funds {
        /// The script.
        script: ScriptBuf,
        /// The outputs, in any order.
        funds: Vec<Fund>,
    },
    /// A watched output.
    Output {
        /// Where it is.
        outpoint: OutPoint,
        /// What is known of it.
        view: OutputView,
    },
    /// A watched output is spent by a leaf of its script tree, and not by the signature of all members.
    SpentByLeaf {
        /// The output.
        outpoint: OutPoint,
        /// What spends it.
        txid: Txid,
    },
    /// All inputs of a transaction that waits for a review, in their order.
    Inputs(Vec<(OutPoint, OutputView)>),
    /// A watched transaction.
    Transaction {
        /// The transaction.
        txid: Txid,
        /// Where it stands.
        view: TransactionView,
        /// Height of the tip at that moment.
        tip: u32,
    },
    /// The fee rate that the source expects to do for the watched target, sat/vB.
    FeeRate(u64),
    /// What became of a broadcast.
    Broadcast {
        /// The transaction.
        txid: Txid,
        /// The outcome.
        outcome: BroadcastOutcome,
    },
}

/// An input that changes nothing. For a message it is the sender's doing and goes back to it as a problem report;
/// for a command it goes back to the user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: got {got}, expected {expected}")]
pub struct Rejection {
    /// What kind of fault.
    pub code: Code,
    /// What was got.
    pub got: String,
    /// What was expected.
    pub expected: String,
}

impl Rejection {
    /// A rejection with both sides named. What is quoted of a peer is cut at [`MAX_TEXT`](crate::message::MAX_TEXT).
    pub fn new(code: Code, got: impl AsRef<str>, expected: impl AsRef<str>) -> Self {
        Self {
            code,
            got: shortened(got.as_ref()),
            expected: shortened(expected.as_ref()),
        }
    }
}

/// Who is to blame, in kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Right in itself, but not now or not here: a late, repeated or misdirected message.
    Unexpected,
    /// No honest implementation sends this.
    Misbehaved,
    /// Meant well, but for another version or a part that is not supported.
    Incompatible,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $fault:ident;)*) => {
        /// Codes of problem reports. `e.m.*`: only the message is refused; `e.p.*`: the session or cohort ends.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $($(#[$doc])* $name,)*
        }

        impl Code {
            /// All of them, in the order of the documentation's table.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// As written on the wire.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }

            /// Who is to blame, in kind.
            pub fn fault(self) -> Fault {
                match self {
                    $(Self::$name => Fault::$fault,)*
                }
            }
        }
    };
}

codes! {
    /// The message cannot be read.
    Malformed = "e.m.malformed", Incompatible;
    /// No message of this protocol.
    UnknownType = "e.m.unknown-type", Incompatible;
    /// A kind that the other role sends.
    WrongRole = "e.m.wrong-role", Misbehaved;
    /// Something that this version does not do.
    Unsupported = "e.m.unsupported", Incompatible;
    /// A limit is reached; trying later may help.
    Limit = "e.m.limit", Unexpected;
    /// Not a peer that we have anything with.
    NotSubscribed = "e.m.not-subscribed", Unexpected;
    /// No such cohort, here or for this sender.
    UnknownCohort = "e.m.unknown-cohort", Unexpected;
    /// The sender is not a member of the cohort.
    NotAMember = "e.m.not-a-member", Misbehaved;
    /// No such session, or no longer.
    UnknownSession = "e.m.unknown-session", Unexpected;
    /// Not in this phase.
    Phase = "e.m.phase", Unexpected;
    /// Membership is frozen since the cohort was set.
    CohortSet = "e.m.cohort-set", Unexpected;
    /// The advert has ended, or admission was closed.
    AdvertClosed = "e.m.advert-closed", Unexpected;
    /// The cohort is open to invited peers only.
    NotInvited = "e.m.not-invited", Unexpected;
    /// The terms cannot be read or accepted.
    Terms = "e.m.terms", Incompatible;
    /// Other terms than those advertised.
    TermsHash = "e.m.terms-hash", Misbehaved;
    /// The proof of possession does not verify.
    ProofOfPossession = "e.m.proof-of-possession", Misbehaved;
    /// Another member's key.
    KeyTaken = "e.m.key-taken", Misbehaved;
    /// Too many or too few indexes, or one twice.
    IndexCount = "e.m.index-count", Misbehaved;
    /// Another member answers for this index.
    IndexTaken = "e.m.index-taken", Unexpected;
    /// The sender lost the contest of an index.
    ControlUnproven = "e.m.control-unproven", Misbehaved;
    /// An index that the sender did not register.
    UnknownIndex = "e.m.unknown-index", Misbehaved;
    /// Not what the member computed itself.
    AckMismatch = "e.m.ack-mismatch", Misbehaved;
    /// A set cohort that the member did not agree to.
    CohortMismatch = "e.p.cohort-mismatch", Misbehaved;
    /// The cohort is over before it was ever agreed on by everybody.
    CohortFailed = "e.p.cohort-failed", Unexpected;
    /// The cohort is over, though it was agreed on: a member was out, or the operator ended it.
    CohortDissolved = "e.p.cohort-dissolved", Unexpected;
    /// The seat was given up because its holder was silent; a new opt-in takes one again, if there is one.
    SeatReleased = "e.m.seat-released", Unexpected;
    /// Not the round that is open.
    Round = "e.m.round", Unexpected;
    /// The root was made without these leaves and may be on its way to the chain: they count as not given.
    LeafLate = "e.m.leaf-late", Unexpected;
    /// A different one was given before.
    Conflict = "e.m.conflict", Misbehaved;
    /// One for every input is needed.
    ContributionCount = "e.m.contribution-count", Misbehaved;
    /// The cohort key did not sign this contribution.
    Signature = "e.m.signature", Misbehaved;
    /// No proof, or a wrong one, for a signal that came before the index was registered.
    Proof = "e.m.proof", Misbehaved;
    /// A nonce that is no pair of points, signed by the member's cohort key.
    Nonce = "e.p.nonce", Misbehaved;
    /// A partial signature that does not verify.
    PartialSignature = "e.p.partial-signature", Misbehaved;
    /// A different aggregated nonce for a session that signed already.
    NonceConflict = "e.p.nonce-conflict", Misbehaved;
    /// A transaction that no honest session ends in.
    ForeignTransaction = "e.m.foreign-transaction", Misbehaved;
    /// A command's value is not usable.
    Invalid = "e.m.invalid", Unexpected;
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_of_the_documented_form() {
        let mut texts: Vec<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert!(
            texts
                .iter()
                .all(|text| text.starts_with("e.m.") || text.starts_with("e.p."))
        );
        texts.sort_unstable();
        texts.dedup();
        assert_eq!(texts.len(), Code::ALL.len());
    }
}
