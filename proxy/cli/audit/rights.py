"""The rights that a policy set of the past granted, for the report on access.

They come from the texts saved in the audit directory, never from the files of today. The texts are
used only if the log vouches for them (`proxy.audit.reporting.policy_activations`) and if loading
them gives the hash that the log names.
"""

from proxy.audit.reporting.policy_activations import PolicyActivation
from proxy.errors import ConfigError, Problem
from proxy.policy.granted_rights import GrantedRights


def rights_in_force(activation: PolicyActivation) -> GrantedRights:
    """Return the rights of a set that was in force.

    Raises:
        ConfigError: its texts are not there, or this version of Callgate reads them otherwise.

    """
    if activation.texts is None:
        hint = "Restore policies/ of the audit directory from a backup."
        raise ConfigError([Problem("the policy set", activation.caveat, hint)])
    rights = GrantedRights.from_texts(activation.texts)
    if rights.hash != activation.hash:
        what = f"the saved texts have the hash {rights.hash}"
        hint = "Use the version of Callgate that saved them."
        raise ConfigError([Problem("the policy set", what, hint)])
    return rights
