#![allow(clippy::unwrap_used, reason = "a test")]

use super::*;
use forkd_format::registry::details;

fn site_of(registry: &str) -> Vec<SiteFile> {
    let packages = details(registry.as_bytes(), &|_, _| true).unwrap();
    let options =
        SiteOptions { title: "Acme <hub>".into(), hub: Some("https://h/registry.json".into()), made: None };
    site(&packages, &options).unwrap()
}

fn version(size: u64) -> String {
    let digest = forkd_format::Digest::of(b"x");
    format!(
        r#"{{"url":"u","sha256":"{digest}","size_bytes":{size},"memory_mib":512,"created_at":"2026-01-02T03:04:05Z"}}"#
    )
}

fn text<'a>(files: &'a [SiteFile], path: &str) -> &'a str {
    &files.iter().find(|file| file.path == path).unwrap().text
}

#[test]
fn what_publishers_write_is_text() {
    let evil = r"</script><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7 * 7 }}\u2028";
    let registry = format!(
        r#"{{"schema_version":1,"packages":{{"a/b":{{"description":"{evil}","versions":{{"v1":{},"latest":{}}}}},"<b>x</b>":{{"versions":{{"latest":{}}}}},
"../../../etc/passwd":{{"versions":{{"latest":{}}}}}}}}}"#,
        version(5 << 20),
        version(6 << 20),
        version(1),
        version(1)
    );
    let files = site_of(&registry);
    let paths: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(paths, ["style.css", "list.js", "copy.js", "packages.js", "index.html", "p/a/b.html"]);
    for path in ["index.html", "p/a/b.html", "packages.js"] {
        let text = text(&files, path);
        assert!(
            !text.contains("<script>alert") && !text.contains("<img") && !text.contains("<b>x"),
            "{text}"
        );
        assert!(!text.contains('\u{2028}') || !path.ends_with(".js"));
        assert!(!text.contains("49"), "a template ran what a publisher wrote");
    }
    assert!(text(&files, "index.html").contains("Acme &lt;hub&gt;"));
}

#[test]
fn a_page_tells_how_to_get_it_and_how_large_it_was() {
    let registry = format!(
        r#"{{"schema_version":1,"packages":{{"a/b":{{"versions":{{"v1":{},"v2":{},"latest":{}}}}}}}}}"#,
        version(5 << 20),
        version(7 << 20),
        version(7 << 20)
    );
    let files = site_of(&registry);
    let page = text(&files, "p/a/b.html").replace("&#x2f;", "/");
    for part in [
        "forkd pull a/b --hub https://h/registry.json",
        "Latest version: v2",
        "v1 5.0 MiB, v2 7.0 MiB",
        "2026-01-02",
        "512 MiB",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    assert!(text(&files, "index.html").contains("v2 · 7.0 MiB · 512 MiB of memory · 2026-01-02"));
}

#[test]
fn a_hub_with_nothing_says_so() {
    let files = site_of(r#"{"schema_version":1,"packages":{}}"#);
    assert!(text(&files, "index.html").contains("Nothing is published here yet"));
}
