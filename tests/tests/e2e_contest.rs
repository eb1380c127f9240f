//! Somebody else has registered the index of a DID: with the real binaries, its controller contests it and wins.

use beacon_tests::harness::Member::Signs;
use beacon_tests::harness::{Agent, Net};
use serde_json::{Value, json};

/// A DID of a key of this member's.
async fn create(member: &Agent) -> String {
    let made = member.answer(&["did", "create", "--new"]).await;
    made["did"].as_str().unwrap_or_default().to_owned()
}

async fn join(net: &mut Net, member: usize, cohort: &str, did: &str) {
    let member = &mut net.members[member];
    member
        .wait("cohort_advertised", |event| event["cohort"] == cohort)
        .await;
    member.answer(&["join", cohort, "--did", did]).await;
}

/// What a member shows of a cohort.
async fn shown(member: &Agent, cohort: &str) -> Value {
    let cohorts = member.call("cohorts", Value::Null).await;
    let mut cohorts = cohorts.as_array().into_iter().flatten();
    cohorts
        .find(|shown| shown["cohort_id"] == cohort)
        .cloned()
        .unwrap_or_default()
}

#[tokio::test]
async fn the_controller_of_a_did_wins_its_index_from_a_squatter() {
    let mut net = Net::start(&[Signs, Signs, Signs]).await;
    let did = create(&net.members[1]).await;
    let cohort = net.advertise(2, json!({})).await;
    join(&mut net, 0, &cohort, &did).await;
    let squatter = net.members[0].did();
    net.coordinator
        .wait("opted_in", |event| event["peer"] == squatter)
        .await;
    join(&mut net, 1, &cohort, &did).await;
    net.members[1].wait("opt_in_refused", |_| true).await;
    let reason = shown(&net.members[1], &cohort).await["reason"].clone();
    assert_eq!(reason["code"], "e.m.index-taken", "{reason}");
    assert!(
        reason["next"]
            .as_str()
            .is_some_and(|next| next.contains("did contest")),
        "{reason}"
    );

    let contest = ["did", "contest", "--cohort", &cohort, "--did", &did];
    let told = net.members[1].answer(&contest).await;
    assert!(
        told["warning"]
            .as_str()
            .is_some_and(|text| text.contains("learns this DID")),
        "{told}"
    );
    let answered = net.members[1].wait("contest_answered", |_| true).await;
    assert_eq!(answered.value["accepted"], true);
    let out = net.members[0].wait("opt_in_refused", |_| true).await;
    assert_eq!(out.value["code"], "e.m.control-unproven");
    let won = shown(&net.members[1], &cohort).await;
    assert_eq!(won["contests"][0]["did"], did, "{won}");

    // The cohort comes to be without the squatter.
    net.members[1]
        .answer(&["join", &cohort, "--did", &did])
        .await;
    let third = create(&net.members[2]).await;
    join(&mut net, 2, &cohort, &third).await;
    net.acknowledged(cohort, &[1, 2]).await;
}

#[tokio::test]
async fn a_set_cohort_goes_on_without_its_squatter() {
    let mut net = Net::start(&[Signs, Signs, Signs]).await;
    let did = create(&net.members[1]).await;
    let spare = create(&net.members[1]).await;
    let third = create(&net.members[2]).await;
    let cohort = net.advertise(3, json!({})).await;
    for (member, did) in [(0, &did), (1, &spare), (2, &third)] {
        join(&mut net, member, &cohort, did).await;
    }
    net.acknowledged(cohort.clone(), &[0, 1, 2]).await;
    let contest = ["did", "contest", "--cohort", &cohort, "--did", &did];
    net.members[1].answer(&contest).await;
    net.members[1]
        .wait("contest_answered", |event| event["accepted"] == true)
        .await;
    let ended = net.coordinator.wait("cohort_dissolved", |_| true).await;
    assert_eq!(ended.value["without"], json!([net.members[0].did()]));
    for member in [1, 2] {
        net.members[member].wait("cohort_dissolved", |_| true).await;
        net.members[member]
            .wait("cohort_advertised", |event| {
                event["succeeds"] == cohort.as_str()
            })
            .await;
    }
}
