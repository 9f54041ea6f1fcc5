//! `forkd bake`.

use crate::common::User;
use crate::from_image::{nothing_was_made, shared, user};
use crate::nothing_is_left;

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("a_recipe_is_baked_and_tested", a_recipe_is_baked_and_tested),
    ("recipes_that_fail_leave_no_tag", recipes_that_fail_leave_no_tag),
];

/// A recipe's folder, with a file beside it.
fn recipe(user: &User, name: &str, text: &str) {
    let dir = user.path("recipes").join(name);
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("recipe.toml"), text).unwrap();
    std::fs::write(user.path("recipes/beside"), "beside").unwrap();
    std::fs::write(user.path("far"), "far").unwrap();
}

fn a_recipe_is_baked_and_tested() {
    let (shared, user) = (shared(), user());
    let text = format!(
        r#"description = "tiny"
image = "{}"
memory_mib = 96
files = [{{ from = "../beside", to = "/opt/made/beside" }}, {{ content = "run me", to = "/opt/script", mode = "0755" }}]
setup = ["/bin/busybox wc -l < /proc/net/route > /opt/routes", "echo set up > /opt/setup"]
user = "app"
warm = "id > /tmp/warm; (sleep 1; echo ready > /tmp/ready) &"
ready = "cat /tmp/ready"

[[tests]]
run = "cat /opt/made/beside"
expect = "beside"
[[tests]]
run = "cat /tmp/warm; id"
expect = """uid=1234(app) gid=1234(app) groups=77(extra),1234(app)
uid=1234(app) gid=1234(app) groups=77(extra),1234(app)"""
[[tests]]
run = "ls -l /opt/script; cat /opt/setup; /bin/busybox wc -l < /proc/net/route"
contains = "set up\n1"
[[tests]]
run = "cat /opt/routes"
expect = "3"
"#,
        shared.layout("small")
    );
    recipe(&user, "tiny", &text);
    let seen = user.run(&["bake", "recipes/tiny"]);
    assert_eq!(seen.code, 0, "{}{}", seen.out, seen.err);
    for words in ["✓ set up in #s", "✓ test # in #s: cat /opt/made/beside", "next: forkd fork --tag tiny"]
    {
        assert!(seen.out.contains(words), "{words}: {}", seen.out);
    }
    let text = std::fs::read_to_string(user.snapshot("tiny", "snapshot.json")).unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap()["recipe"]["description"], "tiny");
    let out = user.ok(&["fork", "--tag", "tiny", "--", "/bin/busybox", "stat", "-c", "%a %U", "/opt/script"]);
    assert!(out.starts_with("#| # root\n"), "{out}");
    nothing_is_left(&user);
}

fn recipes_that_fail_leave_no_tag() {
    let (shared, user) = (shared(), user());
    let of = |rest: &str| {
        format!("description = \"d\"\nimage = \"{}\"\nmemory_mib = 96\n{rest}", shared.layout("small"))
    };
    let good = "[[tests]]\nrun = \"true\"\n";
    let judged = "[[tests]]\nrun = \"echo four\"\nexpect = \"five\"\n";
    let ended = "[[tests]]\nrun = \"echo oh no >&2; exit 9\"\n";
    let cases: [(&str, String, i32, &[&str]); 7] = [
        ("judged", of(&format!("{good}{judged}")), 1, &["test # of the recipe", "four", "five"]),
        ("ended", of(ended), 1, &["test # of the recipe", "exit code # of echo oh no", "it said: oh no"]),
        ("misspelt", of("warn = \"x\""), 2, &["misspelt/recipe.toml", "warn"]),
        ("no-toml", "= =".into(), 2, &["no-toml/recipe.toml"]),
        ("far", of("files = [{ from = \"../../far\", to = \"/x\" }]"), 2, &["../../far"]),
        ("link", of("files = [{ from = \"link\", to = \"/x\" }]"), 2, &["leads out of"]),
        ("setup", of("setup = [\"echo set; exit 3\"]"), 1, &["the setup command ended with exit code #"]),
    ];
    for (name, text, code, words) in cases {
        recipe(&user, name, &text);
        let _ = std::os::unix::fs::symlink("../../far", user.path("recipes").join(name).join("link"));
        let error = user.fails(code, &["bake", &format!("recipes/{name}")]);
        for words in words {
            assert!(error.contains(words), "{name}: {words}: {error}");
        }
        nothing_was_made(&user);
    }
    assert!(user.fails(3, &["bake", "recipes/none"]).contains("recipes/none"));
    nothing_was_made(&user);
}
