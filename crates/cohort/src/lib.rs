//! Beacon cohorts: the messages that a coordinator and its members exchange, the machines that both run, and the
//! MuSig2 signature that comes of it.
//!
//! # Goals
//!
//! - Both roles as machines without IO: an input, the time and randomness go in; events to store and effects to carry
//!   out come back. State is what replaying the events gives, so memory never runs ahead of disk.
//! - A member trusts its coordinator for nothing: it recomputes the address, and it reviews every signal before it makes
//!   a nonce. A [`ReviewedSignal`](review::ReviewedSignal), which only a review gives, is what the signer asks for.
//! - Secret nonces live in the [`signer`] alone: one for each session, input and sighash, destroyed as it signs.
//! - Exact blame: every refusal has a [code](machine::Code), every check of a review [its own](DeclineCode), and partial
//!   signatures are verified one by one as they arrive.
//!
//! # Non-goals
//!
//! - No envelopes and no DID documents: a [`PeerId`](ids::PeerId) is the text of a DID that the caller has proven.
//! - No sockets, files, clocks or chain access; what a machine wants to know of the chain, it
//!   [asks to watch](machine::Machine::watches).
//! - No spends by a leaf of the script tree on the wire: they travel as files ([`script_spend`]).
//!
//! # Example
//!
//! A coordinator and two participants form a cohort. What a real driver adds is in `beacon-runtime`: it stores events
//! and messages in one commit before it applies anything, and it speaks to a network.
//!
//! ```
//! use beacon_cohort::coordinator::{self, Coordinator, Phase};
//! use beacon_cohort::ids::{CohortId, PeerId, Timestamp};
//! use beacon_cohort::machine::{Effect, Input, Machine, Rejection};
//! use beacon_cohort::message::Subscribe;
//! use beacon_cohort::participant::{self, LeafSecret, Participant, Policy, Stage};
//! use beacon_cohort::signer::{KeyPath, LocalSigner};
//! use beacon_cohort::terms::{AgreedTerms, BtcNetwork, Terms};
//! use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};
//! use uuid::Uuid;
//! use zeroize::Zeroizing;
//!
//! /// Steps, "commits", applies, and ticks until nothing more follows.
//! fn drive<M: Machine>(
//!     machine: &mut M,
//!     input: Input<M::Command>,
//!     rng: &mut ChaCha20Rng,
//! ) -> Result<Vec<Effect>, Rejection> {
//!     let (now, mut effects) = (Timestamp(1_000), Vec::new());
//!     let mut step = machine.step(input, now, rng)?;
//!     loop {
//!         step.events.iter().for_each(|event| machine.apply(event));
//!         effects.extend(step.effects);
//!         step = machine.step(Input::Tick, now, rng)?;
//!         if step.events.is_empty() {
//!             return Ok(effects);
//!         }
//!     }
//! }
//!
//! let mut rng = ChaCha20Rng::seed_from_u64(1);
//! let carol = PeerId::new("did:example:coordinator");
//! let mut coordinator = Coordinator::new(coordinator::Config::default());
//! let mut participants: Vec<_> = (1..=2)
//!     .map(|n: u8| {
//!         let mut policy = Policy::asking(BtcNetwork::Regtest);
//!         policy.auto_join = Some(vec![format!("did:example:{n}")]);
//!         let keys = move |path: KeyPath| Zeroizing::new([n + path.steps().len() as u8; 32]);
//!         let secret = LeafSecret::new(Zeroizing::new([n; 32]));
//!         let signer = LocalSigner::new(keys, ChaCha20Rng::seed_from_u64(n.into()));
//!         (PeerId::new(format!("did:example:peer-{n}")), Participant::new(policy, secret), signer)
//!     })
//!     .collect();
//!
//! // The operator opens a cohort for two; both participants subscribe.
//! let cohort = CohortId(Uuid::from_u128(7));
//! let terms = Terms::new(BtcNetwork::Regtest, 2, Timestamp(5_000));
//! let terms = AgreedTerms::parse(terms.to_value()?)?;
//! let invited = Default::default();
//! drive(&mut coordinator, Input::Command(coordinator::Command::Advertise { cohort, terms, invited }), &mut rng)?;
//! let mut waiting = Vec::new(); // Effects, and whose they are.
//! for (own, machine, _) in &mut participants {
//!     let command = participant::Command::Subscribe {
//!         coordinator: carol.clone(),
//!         own: own.clone(),
//!         identity: 0,
//!         filter: Subscribe::default(),
//!     };
//!     let effects = drive(machine, Input::Command(command), &mut rng)?;
//!     waiting.extend(effects.into_iter().map(|effect| (own.clone(), effect)));
//! }
//!
//! // Messages are delivered and the signers are asked until everything is quiet.
//! while let Some((from, effect)) = waiting.pop() {
//!     let mut participant = |name: &PeerId| participants.iter().position(|(own, ..)| own == name);
//!     let (at, effects) = match effect {
//!         Effect::Send { to, message, .. } => match participant(&to) {
//!             Some(n) => {
//!                 let input = Input::Message { from, to: to.clone(), message };
//!                 (to, drive(&mut participants[n].1, input, &mut rng)?)
//!             }
//!             None => {
//!                 let input = Input::Message { from, to: to.clone(), message };
//!                 (to, drive(&mut coordinator, input, &mut rng)?)
//!             }
//!         },
//!         Effect::Sign(request) => {
//!             let n = participant(&from).ok_or("only participants have signers")?;
//!             let Some(answer) = participants[n].2.handle(request) else { continue };
//!             (from, drive(&mut participants[n].1, Input::Signer(answer), &mut rng)?)
//!         }
//!         other => return Err(format!("unexpected {other:?}").into()),
//!     };
//!     waiting.extend(effects.into_iter().map(|effect| (at.clone(), effect)));
//! }
//!
//! // Everybody computed the same beacon address.
//! let formed = &coordinator.state().cohorts[&cohort];
//! assert_eq!(formed.phase, Phase::Acknowledged);
//! for (_, machine, _) in &participants {
//!     let membership = &machine.state().cohorts[&cohort];
//!     assert_eq!(membership.stage, Stage::Agreed);
//!     assert_eq!(membership.beacon, formed.beacon);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod announcement;
pub mod coordinator;
pub mod evidence;
pub mod hourly;
pub mod ids;
pub mod machine;
pub mod message;
pub mod musig;
pub mod participant;
pub mod psbt;
pub mod review;
pub mod script_path;
pub mod script_spend;
pub mod signer;
pub mod statement;
pub mod terms;
pub mod values;

pub use review::DeclineCode;
