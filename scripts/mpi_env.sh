# Source this: the Open MPI settings that make a plain `mpirun -np N` behave on any machine.
# Each line says what goes wrong without it.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1   # mpirun refuses root
export OMPI_MCA_rmaps_base_oversubscribe=1                # "not enough slots" when ranks > cores
export OMPI_MCA_mpi_yield_when_idle=1                     # 16-190 ms a collective when oversubscribed
export OMPI_MCA_hwloc_base_binding_policy=none            # a rank and all its threads on one core
export OMPI_MCA_pml=ob1 OMPI_MCA_btl=self,vader,tcp       # 0.2 s of fabric probing at each launch
export OMPI_MCA_btl_vader_single_copy_mechanism=none      # needs ptrace rights in containers
export OMPI_MCA_odls_base_sigkill_timeout=1                # 0: a death takes the leader along before it has named the culprit
export OMPI_MCA_oob_tcp_keepalive_time=2 OMPI_MCA_oob_tcp_keepalive_intvl=1
export OMPI_MCA_oob_tcp_keepalive_probes=3                # a lost host is never noticed
