FROM debian-root:test
# As pip is set up on this machine, and what this machine trusts.
COPY pip.conf /etc/pip.conf
COPY ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
# As in the image that it stands for, apt keeps no packages.
RUN ln -s python3 /usr/bin/python \
    && rm -f /usr/lib/python3*/EXTERNALLY-MANAGED \
    && printf 'Dir::Cache::pkgcache "";\nDir::Cache::srcpkgcache "";\nDPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb"; };\n' > /etc/apt/apt.conf.d/docker-clean
CMD ["python3"]
