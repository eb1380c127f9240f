//! What makes a coordinator or a participant out of the same driver.

use beacon_cohort::ids::PeerId;
use beacon_cohort::machine::{Input, Machine};
use beacon_cohort::signer::{SignerAnswer, SignerRequest};
use beacon_cohort::terms::BtcNetwork;
use serde_json::Value;

use crate::control::RpcError;
use crate::identities::Identities;

/// A role: its machine, and how a user's calls reach it.
pub trait Agent: Send + 'static {
    /// The machine.
    type Machine: Machine + Send + 'static;

    /// `coordinator` or `participant`.
    const ROLE: &'static str;

    /// Whether peers must be able to dial this role.
    const MUST_BE_REACHABLE: bool;

    /// Turns a control method into a command, or answers it from the state.
    fn call(
        &self,
        machine: &Self::Machine,
        identities: &mut Identities,
        method: &str,
        params: Value,
    ) -> Result<Call<<Self::Machine as Machine>::Command>, RpcError>;

    /// The chain source's last block, whose height is shown in depths. Nothing is decided by it.
    fn saw_tip(&mut self, height: u32);

    /// What the user must hear of at once when this has happened, in one sentence.
    fn alarm(_: &<Self::Machine as Machine>::Event) -> Option<String> {
        None
    }

    /// Index of the identity under which `peer` knows us, or is about to: for messages that are no answers.
    fn identity_for(&self, machine: &Self::Machine, peer: &PeerId) -> u32;

    /// How many identities there are: all of them can be written to.
    fn identity_count(&self, machine: &Self::Machine) -> u32;

    /// Peers to which a connection is kept open, since they cannot dial us.
    fn keep_connected(&self, machine: &Self::Machine) -> Vec<PeerId>;

    /// The networks of the cohorts that still concern this agent.
    fn networks(&self, machine: &Self::Machine) -> Vec<BtcNetwork>;

    /// Whether something was agreed with this peer, so that its messages have room even where strangers' have none.
    fn is_partner(&self, machine: &Self::Machine, peer: &PeerId) -> bool;

    /// Whether this begins something that will need room in the log: refused when the log is full. What finishes or proves
    /// what has begun is not.
    fn begins(
        &self,
        machine: &Self::Machine,
        input: &Input<<Self::Machine as Machine>::Command>,
    ) -> bool;

    /// Asks the signer. A role without one has machines that never ask.
    fn sign(&mut self, request: SignerRequest) -> Option<SignerAnswer>;
}

/// What becomes of a control call.
#[derive(Debug)]
pub enum Call<C> {
    /// Answered from the state.
    Answer(Value),
    /// To be carried out; the value is the answer when it was.
    Command(C, Value),
}
