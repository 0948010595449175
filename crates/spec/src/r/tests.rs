use proptest::prelude::*;

use super::*;
use crate::constraint::Constraint;

fn build(ranks: &str, cores: &str, gpus: &str, hosts: &str) -> ResourceSet {
    let mut set = ResourceSet::new();
    let children = Children::new(cores.parse().unwrap(), gpus.parse().unwrap());
    let hosts: Hostlist = hosts.parse().unwrap();
    for (rank, host) in ranks.parse::<IdSet>().unwrap().iter().zip(hosts.iter()) {
        set.insert(rank, Some(&host), &children);
    }
    set
}

fn a() -> ResourceSet {
    let mut set = build("0-1", "0-3", "0", "foo[0-1]");
    set.add_property("a", &"0".parse().unwrap()).unwrap();
    set.add_property("b", &"0-1".parse().unwrap()).unwrap();
    set
}

#[test]
fn the_example_of_rfc_20() {
    let json = br#"{"version":1,"execution":{"R_lite":[{"rank":"19-22","children":{"core":"0-47","gpu":"0-7"}}],"nodelist":["node[186-189]"],"nslots":32,"starttime":1676560542,"expiration":1676562342}}"#;
    let set = ResourceSet::decode(json).unwrap();
    assert_eq!(set.to_string(), "rank[19-22]/core[0-47],gpu[0-7]");
    assert_eq!(
        (set.count("node"), set.count("core"), set.count("gpu")),
        (4, 192, 32)
    );
    assert_eq!((set.hostname(20), set.nslots), (Some("node187"), Some(32)));
    assert_eq!(set.cores(22), Some(&"0-47".parse().unwrap()));
    assert_eq!(ResourceSet::decode(set.encode().as_bytes()).unwrap(), set);
}

#[test]
fn the_text_is_what_scripts_compare_with() {
    assert_eq!(
        a().encode(),
        r#"{"version":1,"execution":{"R_lite":[{"rank":"0-1","children":{"core":"0-3","gpu":"0"}}],"starttime":0.0,"expiration":0.0,"nodelist":["foo[0-1]"],"properties":{"a":"0","b":"0-1"}}}"#
    );
    assert_eq!(
        ResourceSet::new().encode(),
        r#"{"version":1,"execution":{"R_lite":[],"starttime":0.0,"expiration":0.0,"nodelist":[""]}}"#
    );
    let json = r#"{"version":1,"execution":{"R_lite":[{"rank":"0","children":{"core":"0"}}],"nslots":3,"starttime":10.0,"expiration":15.0,"nodelist":["a"],"properties":{"p":"0"}},"scheduling":{"x":1}}"#;
    assert_eq!(ResourceSet::decode(json.as_bytes()).unwrap().encode(), json);
}

#[test]
fn entries_of_one_rank_join_and_empty_ones_vanish() {
    for (r_lite, short) in [
        (
            r#"[{"rank":"0","children":{"core":"0"}},{"rank":"0","children":{"core":"1"}}]"#,
            "rank0/core[0-1]",
        ),
        (
            r#"[{"rank":"1","children":{"core":"0"}},{"rank":"0","children":{"core":"0"}}]"#,
            "rank[0-1]/core0",
        ),
        (
            r#"[{"rank":"0","children":{"core":"0","disk":"0-3","gpu":""}}]"#,
            "rank0/core0,disk[0-3]",
        ),
        (r#"[{"rank":"0","children":{"core":""}}]"#, ""),
        ("[]", ""),
    ] {
        let json = format!(r#"{{"version":1,"execution":{{"R_lite":{r_lite}}}}}"#);
        assert_eq!(
            ResourceSet::decode(json.as_bytes()).unwrap().to_string(),
            short
        );
    }
}

#[test]
fn refuses_other_documents_with_a_reason() {
    let lite = r#""R_lite":[{"rank":"0","children":{"core":"0"}}]"#;
    for (json, text) in [
        ("{\"version\":2,\"execution\":{\"R_lite\":[]}}".into(), "invalid version=2"),
        ("{\"version\":1}".into(), "Object item not found: execution"),
        ("{\"execution\":{}}".into(), "Object item not found: version"),
        (r#"{"version":1,"execution":{"R_lite":[{"rank":"0"}]}}"#.into(), "Object item not found: children"),
        (r#"{"version":1,"execution":{"R_lite":[{"rank":"x","children":{}}]}}"#.into(), "invalid idset 'x'"),
        (r#"{"version":1,"execution":{"R_lite":[{"rank":"0-2147483647","children":{"core":"0"}}]}}"#.into(), "too many ranks"),
        (format!(r#"{{"version":1,"execution":{{{lite},"nodelist":["a","b"]}}}}"#), "nodelist has 2 hosts for 1 ranks"),
        (format!(r#"{{"version":1,"execution":{{{lite},"properties":{{"p":"3"}}}}}}"#), "rank 3 not found in target resource list"),
        (format!(r#"{{"version":1,"execution":{{{lite},"properties":{{"^x":"0"}}}}}}"#), "invalid character '^' in property \"^x\""),
        (format!(r#"{{"version":1,"execution":{{{lite},"properties":{{"x":1}}}}}}"#), "properties value '1' not a string"),
    ] {
        let json: String = json;
        assert_eq!(ResourceSet::decode(json.as_bytes()).unwrap_err().to_string(), text);
    }
}

#[test]
fn set_operations() {
    let (mut a, b, c) = (
        a(),
        build("1-2", "0-1", "", "foo[1-2]"),
        build("5-6", "2-5", "", "foo[5-6]"),
    );
    assert_eq!(
        a.difference(&b).to_string(),
        "rank0/core[0-3],gpu0 rank1/core[2-3],gpu0"
    );
    assert_eq!(a.intersection(&b).to_string(), "rank1/core[0-1]");
    assert!(a.intersection(&b).properties().is_empty());
    assert_eq!(
        a.union(&b).to_string(),
        "rank[0-1]/core[0-3],gpu0 rank2/core[0-1]"
    );
    assert_eq!(
        a.append(&b).unwrap_err().to_string(),
        "R objects 'rank[0-1]/core[0-3],gpu0' and 'rank[1-2]/core[0-1]' overlap"
    );
    a.append(&c).unwrap();
    assert_eq!(a.nodelist().to_string(), "foo[0-1,5-6]");
    a.remap();
    assert_eq!(
        a.to_string(),
        "rank[0-1]/core[0-3],gpu0 rank[2-3]/core[0-3]"
    );
    assert!(a.difference(&a).is_empty() && a.difference(&a).properties().is_empty());
    assert!(a.is_subset(&a) && !a.is_subset(&c));
    let elsewhere = build("0-1", "0-3", "", "bar,bar");
    assert!(a.intersection(&elsewhere).is_empty());
}

#[test]
fn rerank_follows_hosts() {
    let mut set = a();
    set.rerank(&"foo1,foo0".parse().unwrap()).unwrap();
    assert_eq!(set.nodelist().to_string(), "foo[1,0]");
    assert_eq!(set.properties()["a"].to_string(), "1");
    for (hosts, text) in [
        (
            "foo1,foo7",
            "failed to find one or more provided hosts in R",
        ),
        ("foo1", "Too few hosts specified (expected 2)"),
        ("foo[0-2]", "Too many hosts specified (expected 2)"),
    ] {
        assert_eq!(
            set.rerank(&hosts.parse().unwrap()).unwrap_err().to_string(),
            text
        );
    }
}

#[test]
fn constraints_choose_ranks() {
    for (properties, ranks) in [
        ("a", "0"),
        ("^a", "1"),
        ("foo0", "0"),
        ("b", "0-1"),
        ("x", ""),
    ] {
        let constraint = Constraint::from_properties([properties]).unwrap();
        assert_eq!(a().copy_constraint(&constraint).ranks().to_string(), ranks);
    }
    assert_eq!(a().ranks_of(&"foo[1-2]".parse().unwrap()).to_string(), "1");
}

#[test]
fn verify_says_what_is_wrong() {
    let full = build("0", "0-3", "0", "foo");
    for (expected, actual, text) in [
        (
            &full,
            build("0", "0-1", "", "foo"),
            "rank 0 (foo) missing resources: core[2-3],gpu0",
        ),
        (
            &build("0", "0-1", "", "foo"),
            full.clone(),
            "rank 0 (foo) has extra resources: core[2-3],gpu0",
        ),
        (
            &full,
            build("0", "0-5", "0", "bar"),
            "rank 0 got hostname 'bar', expected 'foo'",
        ),
        (
            &full,
            build("1", "0-1", "", "foo"),
            "rank 1 not found in expected ranks",
        ),
    ] {
        let error = expected.verify(&actual, &VerifyConfig::STRICT).unwrap_err();
        assert_eq!(error.to_string(), text);
    }
    full.verify(&full, &VerifyConfig::STRICT).unwrap();
    full.verify(&build("0", "0-5", "", "foo"), &VerifyConfig::default())
        .unwrap();
    full.verify(&build("0", "", "", "x"), &VerifyConfig::IGNORE)
        .unwrap();
}

fn sets() -> impl Strategy<Value = ResourceSet> {
    let node = (
        0u32..6,
        proptest::collection::btree_set(0u32..8, 1..8),
        any::<bool>(),
    );
    proptest::collection::vec(node, 0..6).prop_map(|nodes| {
        let mut set = ResourceSet::new();
        for (rank, cores, gpu) in nodes {
            let gpus = if gpu { IdSet::first_n(2) } else { IdSet::new() };
            let children = Children::new(cores.into_iter().collect(), gpus);
            set.insert(rank, Some(&format!("h{rank}")), &children);
        }
        set
    })
}

proptest! {
    #[test]
    fn algebra_agrees_with_itself(a in sets(), b in sets()) {
        let both = a.intersection(&b);
        let mut rebuilt = a.difference(&b);
        prop_assert!(!rebuilt.overlaps(&b));
        prop_assert_eq!(a.overlaps(&b), !both.is_empty());
        rebuilt.append(&both).unwrap();
        prop_assert_eq!(&rebuilt, &a);
        prop_assert_eq!(a.union(&b).difference(&b), a.difference(&b));
        prop_assert_eq!(ResourceSet::decode(a.encode().as_bytes()).unwrap(), a);
    }
}
