//! `forkd quickstart`; all of it is the README's first command.

use crate::common::User;
use forkd_testing::tree;

#[test]
fn a_snapshot_that_it_did_not_make_is_neither_forked_nor_replaced() {
    let user = User::new();
    user.with("quickstart", 1);
    let before = tree(&user.store());
    let error = user.fails(1, &["quickstart", "-y"]);
    assert!(error.contains("'quickstart' is here, and is not what quickstart pulls"), "{error}");
    assert!(
        error.contains("`forkd rmi quickstart`; to keep it, `forkd tag quickstart <OTHER>` first"),
        "{error}"
    );
    assert_eq!(tree(&user.store()), before);
}
