"""``python -m icm_fast``, which launchers of several processes need."""

from icm_fast.cli import main

if __name__ == "__main__":
    main()
