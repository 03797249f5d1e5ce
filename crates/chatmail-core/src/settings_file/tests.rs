use super::*;

const SAMPLE: &str = include_str!("../../testdata/settings.json");

fn refused(text: &str) -> String {
    Settings::parse(text, Path::new("settings.json"))
        .unwrap_err()
        .to_string()
}

#[test]
fn the_sample_survives_a_round_trip() {
    let settings = Settings::parse(SAMPLE, Path::new("settings.json")).unwrap();
    let again = serde_json::to_string(&settings).unwrap();
    assert_eq!(Settings::parse(&again, Path::new("x")).unwrap(), settings);
}

#[test]
fn wrong_files_name_key_finding_and_what_is_allowed() {
    let unknown = SAMPLE.replace("\"max_recipients\"", "\"max_recipents\"");
    let wrong_type = SAMPLE.replace("\"max_size\": 52428800", "\"max_size\": \"30M\"");
    let bad_mode = SAMPLE.replace("\"acme\"", "\"letsencrypt\"");
    let bad_range = SAMPLE.replace("\"username_min_length\": 9", "\"username_min_length\": 12");
    let bad_domain = SAMPLE.replace(
        "\"domain\": \"chat.example.org\"",
        "\"domain\": \"Chat.example.org\"",
    );
    let bad_rule = SAMPLE.replace("blocked.example", "blocked.example.");
    let few_large = SAMPLE.replace("\"at_once\": 8", "\"at_once\": 3");
    let more_than_all = SAMPLE.replace("\"trim_to_percent\": 70", "\"trim_to_percent\": 170");
    insta::assert_snapshot!(
        [
            unknown,
            wrong_type,
            bad_mode,
            bad_range,
            bad_domain,
            bad_rule,
            few_large,
            more_than_all,
            format!("{SAMPLE} x")
        ]
        .map(|text| refused(&text))
        .join("\n")
    );
}

#[test]
fn every_key_is_needed() {
    fn check(whole: &serde_json::Value, at: &[&str]) {
        let mut inner = whole;
        for key in at {
            inner = &inner[*key];
        }
        let Some(object) = inner.as_object() else { return };
        for key in object.keys() {
            let mut less = whole.clone();
            let mut parent = &mut less;
            for key in at {
                parent = &mut parent[*key];
            }
            parent.as_object_mut().unwrap().remove(key);
            let message = refused(&less.to_string());
            assert!(message.contains(&format!("missing field `{key}`")), "{message}");
            check(whole, &[at, &[key.as_str()]].concat());
        }
    }
    check(&serde_json::from_str(SAMPLE).unwrap(), &[]);
}
