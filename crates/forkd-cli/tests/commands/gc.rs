//! `forkd gc`.

use crate::common::User;

#[test]
fn gc_removes_only_what_killed_runs_left() {
    let user = User::new();
    assert_eq!(user.ok(&["gc"]), "✓ nothing to clean up\n");
    user.with("t", 1);
    let staging = user.path("data/forkd/staging");
    for name in ["4194000-0", "mydocs"] {
        std::fs::create_dir_all(staging.join(name)).unwrap();
        std::fs::write(staging.join(name).join("x"), "x").unwrap();
    }
    let seen = user.run(&["gc"]);
    assert_eq!((seen.code, seen.out.as_str()), (0, "✓ removed # leftover(s)\n"));
    assert!(staging.join("mydocs/x").exists() && !staging.join("4194000-0").exists());
    // A link in the place of staging is not followed.
    std::fs::rename(&staging, user.path("elsewhere")).unwrap();
    std::os::unix::fs::symlink(user.path("elsewhere"), &staging).unwrap();
    assert!(user.fails(1, &["gc"]).contains("not a folder of its own"));
}
